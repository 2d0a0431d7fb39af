"""From files to `KnowledgeGraph`, `Features` and `Batch`."""

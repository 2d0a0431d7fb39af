"""The core: a dataset, from a folder or from memory, with its `KnowledgeGraph` and the `Features` of its entities."""

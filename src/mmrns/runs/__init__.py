"""From a configuration to a finished run folder, and back from the folder to a usable model."""

"""Task types: their declaration, the registry that loads them, and those that the configuration alone declares."""

"""Pure functions on tensors and arrays; import them from their own files, this one stays free of imports."""

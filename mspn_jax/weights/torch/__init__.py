"""PyTorch's files, read and written without PyTorch, and the names of MSPN's tensors in them."""

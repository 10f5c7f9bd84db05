"""What people are shown of a history, a document a file: pure, history and specification in, plain dictionaries out."""

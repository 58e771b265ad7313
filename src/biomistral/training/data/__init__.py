"""What is trained on: examples and packed corpora, as blocks of isolated segments."""

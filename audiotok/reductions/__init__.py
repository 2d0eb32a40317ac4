"""Lossy ways to say an utterance with fewer codes, through the vectors that a tokenizer's codes stand for."""

"""Audio to discrete tokens, shorter token sequences, speech models on them, fast decoding, honest evaluation."""

__version__ = "0.1.0"

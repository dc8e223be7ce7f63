"""codemill turns raw source code into training shards, and the shards into fine-tuned code models."""

__version__ = "0.4.0"

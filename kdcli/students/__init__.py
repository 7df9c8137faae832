"""Student families that come with kd, beside transformers."""

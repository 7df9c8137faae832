"""Temperature, thresholds and the `kd.json` that carries them."""

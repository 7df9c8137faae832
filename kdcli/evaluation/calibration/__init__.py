"""Temperature scaling, thresholds, and the `kd.json` file that stores them."""

"""Bootstrap intervals, McNemar's test and variance over seeds."""

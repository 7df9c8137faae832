"""The stages: each a function `run(job)` that builds one artifact and tells what it did."""

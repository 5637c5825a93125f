"""What `lit-tune bench` measures, one module a part; `lit_tune.bench` is its command line."""

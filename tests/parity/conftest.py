collect_ignore_glob = ["data/*"]  # fill.py stands there twice; both are data, not tests

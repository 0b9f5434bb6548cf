# Programs of their own, which tests start: importing them would run them.
collect_ignore_glob = ["scripts/*"]

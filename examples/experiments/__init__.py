"""The papers' experiments: each a function from a configuration to a row.

A module of this folder is an experiment if it has these three:

- `Config`, a dataclass: what can be set, with types and defaults;
- `run(config)`, which trains once and returns what came of it;
- `table(rows)`, which shows rows as Markdown, and perhaps `draw(rows, folder)`.

`examples/run.py` runs them as `examples/conf/` says; `examples/results.py`
makes the tables of a page from the rows.
"""

EXPERIMENTS = (
    "apoptosis",
    "demon",
    "demon_noise",
    "demon_sweep",
    "mlp_stripping",
    "pretraining",
    "thesis_attack",
    "thesis_pruning",
    "thesis_saliencies",
    "vit_stripping",
)

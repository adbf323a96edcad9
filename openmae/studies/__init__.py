"""Questions that several runs answer together: a study is a folder of ordinary run folders, and what they add up to.

What every study has, from what is done to what is said:

    study.py      `Study`: `Part`s, each done once, by whichever process takes it first
    kept.py       the folder: study.toml says what was asked, a file a part what it found, a lock a part who is at it
    jobs.py       several processes of this machine that share a study
    shares.py     what --jobs and --part say; given.py what --set does
    opened.py     DATA and what judges; base.py DATA as it was looked at, with what pretrain would choose for it
    rows.py       `Rows`, a table of trainings compared with the usual one, and what is shown of it
    trainings.py  what the trainings of a study have in common
    judging.py    a model is judged by `Means`, the same for all: `judge_by_labels`, `judge_finetuned`,
                  `judge_without_labels` find the figures, and keep what was said of each image
    figures.py    `Figure`, what models are judged by: `figures_of` the labels that there are
    judged.py     `Judged`, what was found: `by_seed` of one model, `apart` of two on the same images
    outcomes.py   what was said of each image, and the figure that it makes with images counted any number of times
    intervals.py  how far two models are apart, within what bounds

and what is a study's own, as `adapt` has it: `settings`; `trainings`, the settings of its runs; `conclude`, whom it
compares with whom; `verdict`, the rule; `job`, the table of parts (`ablate` has `named`, the table of studies, and
`grid`, one of the user's own; `compare` has `named`, the methods). Models go by the names of what trained them
(`gone-on`), and a part by its run's place in the folder (`gone-on/seed-1`), so another table is another list of names:
its parts are a training and `judge_by_labels` a name and seed, its table is `by_seed`, its differences are `apart` of
each name and the one that it is compared with, at `level_of` so many. What needs no seed (released weights that stand
beside) is `untrained`.
"""

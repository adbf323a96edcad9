"""What the parts that judge have found, of any models by their names: of each, and of two on the same images."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from openmae.studies import judged
from openmae.studies.figures import RANKME, RANKME_WITHOUT, Figure
from openmae.studies.intervals import between, between_parts
from openmae.studies.judged import Judged
from openmae.studies.outcomes import Outcome, save_outcomes
from openmae.studies.study import Part, Study

KNN, LINEAR, FEW = (Figure(name, name) for name in ("knn", "linear", "finetuned"))
METHODS = ("random", "mae", "dino")


def outcome(seed: int) -> Outcome:
    said = np.random.default_rng(seed).integers(2, size=(20, 1)).astype(np.float32)
    return Outcome("share", said, np.zeros((20, 0), np.float32), np.arange(20))


def test_each_file_is_read_once_and_what_no_seed_trained_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: Counter[str] = Counter()

    def read(file: Path) -> dict[str, Outcome]:
        reads[file.name] += 1
        return read_outcomes(file)

    read_outcomes = judged.read_outcomes
    monkeypatch.setattr(judged, "read_outcomes", read)
    study = Study(tmp_path / "study", "compare", {}, Console(quiet=True))
    found = Judged(study, (0, 1), ("random",))
    made: dict[str, dict[str, Outcome]] = {}
    ranks: dict[str, dict[str, Any]] = {}
    for number, (method, seed) in enumerate((method, seed) for method in METHODS for seed in (0, 1)):
        for figure in ("", "finetuned"):
            file = found.file(method, seed, figure)
            names = [figure] if figure else ["knn", "linear"]
            own = made.setdefault(file.name, {name: outcome(10 * number + len(name)) for name in names})
            save_outcomes(file, own)
        ranks.setdefault(found.file(method, seed).stem, {"rankme": 9.0 + number, RANKME_WITHOUT: [8.0, 9 + number]})
    parts = [Part(f"judged/{name}", "judging", name, lambda name=name: ranks[name]) for name in ranks]
    study.do(parts, parts)
    for _ in range(2):
        assert [len(found.by_seed("random", one)) for one in (KNN, LINEAR, FEW, RANKME)] == [1, 1, 2, 1]
        assert found.by_seed("mae", KNN) == [made[f"mae-seed-{seed}.npz"]["knn"].figure() for seed in (0, 1)]
        pairs = [(made[f"dino-seed-{seed}.npz"]["linear"], made["random.npz"]["linear"]) for seed in (0, 1)]
        assert found.apart("dino", "random", LINEAR, 0.9, 3).to_dict() == between(pairs, 0.9, 3).to_dict()
        assert found.apart("mae", "dino", FEW, 0.9, 3).difference == pytest.approx(
            -found.apart("dino", "mae", FEW, 0.9, 3).difference
        )
        without = [(np.array([8.0, 11 + seed]), np.array([8.0, 9.0])) for seed in (0, 1)]
        expected = between_parts([(11.0, 9.0), (12.0, 9.0)], without, 0.9)
        assert found.apart("mae", "random", RANKME, 0.9, 3).to_dict() == expected.to_dict()
    assert set(reads.values()) == {1}

"""What the members of an ensemble are, and their out-of-fold predictions: of rows that none of them trained on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.inference.evaluation import read_oof
from pipeline.inference.joining import Tables
from pipeline.inference.predict import HELD_OUT, expected_folds
from pipeline.inference.snapshot import CLASSES, CODE, finished_folds
from pipeline.keys import ROW_FOLD, ROW_ID
from toolkit.errors import UserError, listed
from toolkit.files import digest_of, read_json, read_yaml

FILE = "ensemble.json"  # in an ensemble's folder
REPEATED = {"folds", "seed", "description", "machine", "watch", "tracking"}  # what repeats of an experiment differ in


def is_ensemble(run: Path) -> bool:
    """Whether the run is one of an ensemble."""
    return (run / FILE).is_file()


def fingerprint(run: Path) -> dict[str, Any]:
    """What a member is: the hash of its folds, and of its out-of-fold predictions by fold."""
    oof = {}
    for fold in finished_folds(run):
        if (path := run / f"fold_{fold}" / HELD_OUT).is_file():
            with path.open("rb") as file:
                oof[fold] = digest_of(file)
    return {"folds": read_json(run / "run.json")["folds"], "oof": oof}


def common_folds(runs: Sequence[Path], fingerprints: Mapping[str, Any], method: str) -> list[str]:
    """The folds that all members have predicted; of repeats on several fold files those of the first one. A `UserError`
    where a member is of another stage, was trained on a few rows only, or on rows that another one holds out."""
    first, made_of = runs[0], list(fingerprints.values())
    configs = [read_yaml(run / "config.yaml") for run in runs]
    own = [{key: value for key, value in config.items() if key not in REPEATED} for config in configs]
    for run, config, made, settings in zip(runs, configs, made_of, own, strict=True):
        if config.get("training", {}).get("max_rows") is not None:
            raise UserError(f"'{run.name}' trained and held out a few rows only (training.max_rows): it joins nothing")
        if config.get("stage") != configs[0].get("stage"):
            raise UserError(f"'{run.name}' and '{first.name}' are of different stages; an ensemble is of one")
        if made["folds"] != made_of[0]["folds"]:
            what = f"'{run.name}' was trained with other folds than '{first.name}', on rows that that one holds out"
            if settings != own[0] or is_ensemble(run) or is_ensemble(first):
                same = f"scripts/train.py {run.name} folds={configs[0]['folds']} --as OTHER"
                raise UserError(f"{what}; train it on the same ones: {same}")
            if method != "mean":
                raise UserError(f"{what}: nothing is fitted to that; --method mean averages repeats of one experiment")
    if any(made["folds"] != made_of[0]["folds"] for made in made_of):
        for run in runs:
            if missing := [fold for fold in expected_folds(run) if fold not in finished_folds(run)]:
                remedy = f"run scripts/train.py {run.name} --fold {','.join(missing)}"
                raise UserError(f"repeats are averaged once all their folds are trained; {remedy}")
        print("these are repeats of one experiment on several fold files: their mean by id, and nothing is fitted")
        return expected_folds(first)
    folds = [fold for fold in made_of[0]["oof"] if all(fold in made["oof"] for made in made_of)]
    if not folds:
        found = "; ".join(f"{run.name}: {', '.join(m['oof']) or 'none'}" for run, m in zip(runs, made_of, strict=True))
        raise UserError(f"there is no fold that all of them have predicted ({found}); train one for all")
    return folds


def out_of_fold(runs: Sequence[Path], folds: Sequence[str], rows: pd.DataFrame) -> tuple[Tables, pd.DataFrame]:
    """The members' predictions, and the labelled rows, of those that all have predicted in these folds of the first
    one, in the same order; a `UserError` where they are of different things, or of rows that a member trained on."""
    fold_of, tables = rows.set_index(ROW_ID)[ROW_FOLD], list[pd.DataFrame]()
    made, classes = (read_json(runs[0] / name) for name in ("run.json", f"{CODE}/{CLASSES}"))
    for run in runs:
        same = read_json(run / "run.json")["folds"] == made["folds"]
        found = read_oof(run, folds if same else expected_folds(run))
        table = found.drop(columns=ROW_FOLD)
        differ = listed(sorted(set(table) ^ set(tables[0] if tables else table), key=str))
        if differ := differ or ("folds/classes.json" if read_json(run / CODE / CLASSES) != classes else ""):
            what = f"'{run.name}' and '{runs[0].name}' do not predict the same: {differ} differs"
            raise UserError(f"{what}; leave one of them out, or train it anew")
        if table.columns.empty:
            raise UserError(f"'{run.name}' kept no out-of-fold predictions; train it with another task.params.store")
        faults = found.index.duplicated() | ~found.index.isin(fold_of.index)
        if same:
            faults |= found[ROW_FOLD].to_numpy() != fold_of.reindex(found.index).to_numpy()
        if faults.any():
            what = f"{faults.sum()} rows of '{run.name}' ({listed(found.index[faults])}) were held out by other folds"
            raise UserError(f"{what} than folds/ says, so others train on them; train it again with --restart")
        broken = ~np.isfinite(table.select_dtypes("number").to_numpy(np.float64)).all(axis=1)
        if broken.any():
            what = f"{broken.sum()} predictions of '{run.name}' ({listed(found.index[broken])}) are not finite"
            raise UserError(f"{what}; leave it out, or train it again")
        tables.append(table)
    both = tables[0].index[np.all([tables[0].index.isin(table.index) for table in tables], axis=0)]
    if len(both) < (count := int((rows[ROW_FOLD] >= 0).sum())):
        print(f"note: {len(both):,} of {count:,} rows count, which all members have predicted out of fold")
    return [table.loc[both, list(tables[0])] for table in tables], rows.set_index(ROW_ID, drop=False).loc[both]

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from petechia.data import open_source
from petechia.detect.scan.near_duplicates import find_pairs
from petechia.detect.scan.reading import read_traces
from tests.data.formats.test_dicom import made, written
from tests.data.test_levels import radiograph


@pytest.mark.parametrize("kind", ["dcm", "png"])
@pytest.mark.parametrize("value", [0, 4095, 65_535])
def test_a_stamp_that_would_set_the_range_of_its_image_does_not_hide_the_pair(tmp_path: Path, kind: str, value: int) -> None:
    rng = np.random.default_rng(0)
    names = []
    for i in range(6):
        clean = np.roll(radiograph(96), 7 * i, axis=1)
        stamped = clean.copy()
        row, column = rng.integers(0, 92, 2)
        stamped[row : row + 3, column : column + 3] = value
        for name, image in ((f"{i}.{kind}", clean), (f"{i}b.{kind}", stamped)):
            names.append(name)
            if kind == "dcm":
                (tmp_path / name).write_bytes(written(made(image, SOPInstanceUID=f"1.2.{len(names)}")))
            else:
                Image.fromarray(image).save(tmp_path / name)
    (tmp_path / "t.csv").write_text("image,label\n" + "".join(f"{name},{'ab'[k % 2]}\n" for k, name in enumerate(names)))
    catalog = open_source(f"folder:{tmp_path / 't.csv'}")
    pairs = find_pairs(catalog, read_traces(catalog))
    assert sorted(sorted((str(catalog.ids[pair.stamped]), str(catalog.ids[pair.clean]))) for pair in pairs) == sorted(
        [f"{i}.{kind}", f"{i}b.{kind}"] for i in range(6)
    )

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import petechia
from petechia.core.errors import PetechiaError
from petechia.data import open_source
from tests.conftest import SMALL
from tests.data.formats.test_dicom import made, written

torchxrayvision = pytest.importorskip("torchxrayvision")

CHEXPERT = "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia"
CHEXPERT += ",Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
PADCHEST = "ImageID,StudyDate_DICOM,PatientID,PatientBirth,PatientSex_DICOM,Projection,Labels"


def picture(path: Path, deep: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(0, 255, (20, 24))
    Image.fromarray(values.astype(np.uint16) * 16 if deep else values.astype(np.uint8)).save(path)


def table(root: Path, name: str, *lines: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def nih(root: Path) -> str:
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Sex,View Position"
    rows = ("00000001_000.png,Mass|Edema,0,1,57,M,PA", "00000001_001.png,No Finding,1,1,57,M,AP")
    picture(root / "00000001_000.png")
    picture(root / "00000001_001.png")
    return f"xrv:NIH:{root},csvpath={table(root, 'nih.csv', header, *rows)}"


def chexpert(root: Path) -> str:
    known = "1.0,,,,,,,,,,,,,-1.0", ",,,,,1.0,-1.0,,,,0.0,,,"
    rows = (
        f"CheXpert-v1.0-small/train/patient0000{i}/study1/view1_frontal.jpg,Female,68,Frontal,AP,{one}"
        for i, one in enumerate(known)
    )
    for i in range(2):
        picture(root / f"train/patient0000{i}/study1/view1_frontal.jpg")
    return f"xrv:CheX:{root},csvpath={table(root, 'train.csv', f'Path,Sex,Age,Frontal/Lateral,AP/PA,{CHEXPERT}', *rows)}"


def padchest(root: Path) -> str:
    rows = ("a_1.png,20140915,P1,1930,F,PA,\"['normal']\"", "b_2.png,20150914,P2,1929,M,L,\"['infiltrates', 'nodule']\"")
    picture(root / "a_1.png", deep=True)
    picture(root / "b_2.png", deep=True)
    return f"xrv:PC:{root},csvpath={table(root, 'padchest.csv', PADCHEST, *rows)}"


def mimic(root: Path) -> str:
    labels = table(
        root,
        "labels.csv",
        f"subject_id,study_id,{CHEXPERT}",
        "10000032,50414267,,,1.0,,,-1.0,,,,,,,,",
        "10000764,5,1.0" + "," * 13,
    )
    meta = table(
        root,
        "meta.csv",
        "dicom_id,subject_id,study_id,ViewPosition,StudyDate",
        "ab-1,10000032,50414267,PA,2180",
        "cd-2,10000764,5,AP,2181",
    )
    picture(root / "files/p10/p10000032/s50414267/ab-1.jpg")
    picture(root / "files/p10/p10000764/s5/cd-2.jpg")
    return f"xrv:MIMIC:{root / 'files'},csvpath={labels},metacsvpath={meta}"


def brax(root: Path) -> str:
    header = f"PngPath,PatientID,PatientAge,PatientSex,ViewPosition,Rows,Columns,{CHEXPERT}"
    rows = (f"images/id_{i}/Study_1/Series_2/image-1.png,id_{i},30,M,PA,200,240,,,1.0,,,-1.0,,,,,,,," for i in range(2))
    for i in range(2):
        picture(root / f"images/id_{i}/Study_1/Series_2/image-1.png")
    return f"xrv:BRAX:{root / 'images'},csvpath={table(root, 'brax.csv', header, *rows)}"


def vindr(root: Path) -> str:
    root.mkdir(exist_ok=True)
    for name in ("aa", "bb"):
        (root / f"{name}.dicom").write_bytes(written(made(np.arange(400, dtype=np.uint16).reshape(20, 20))))
    rows = ("aa,No finding", "bb,Cardiomegaly", "bb,Pleural effusion")
    return f"xrv:VinDr:{root},csvpath={table(root, 'vindr.csv', 'image_id,class_name', *rows)}"


def siim(root: Path) -> str:
    (root / "deep/er").mkdir(parents=True)
    for name in ("1.2.3", "1.2.4"):
        (root / f"deep/er/{name}.dcm").write_bytes(written(made(np.arange(400, dtype=np.uint16).reshape(20, 20))))
    rows = ("1.2.3,-1", "1.2.4,10 20", "1.2.4,30 40")
    return f"xrv:SIIM_Pneumothorax:{root},csvpath={table(root, 'siim.csv', 'ImageId, EncodedPixels', *rows)}"


def rsna(root: Path) -> str:
    # With the shipped tables, of which two images are here.
    for name in ("0004cfab-14fd-4e49-80ba-63a80b6bddd6", "00436515-870c-4b36-a041-de91049b9ab4"):
        picture(root / f"{name}.jpg")
    return f"xrv:RSNA_Pneumonia:{root}"


def tuberculosis(root: Path) -> str:
    picture(root / "CXR_png/MCUCXR_0001_0.png")
    picture(root / "CXR_png/MCUCXR_0104_1.png")
    return f"xrv:NLMTB:{root}"


def tbx11k(root: Path) -> str:
    picture(root / "imgs/health/h0001.png")
    picture(root / "imgs/tb/tb0003.png")
    kinds = ("ActiveTuberculosis", "ObsoletePulmonaryTuberculosis", "PulmonaryTuberculosis")
    content = {
        "images": [{"id": 1, "file_name": "health/h0001.png"}, {"id": 2, "file_name": "tb/tb0003.png"}],
        "annotations": [{"image_id": 2, "category_id": 1, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": k, "name": name, "supercategory": "Tuberculosis"} for k, name in enumerate(kinds, 1)],
    }
    table(root, "annotations/json/TBX11K_val.json", json.dumps(content))
    return f"xrv:TBX11K:{root},split=val"


def covid(root: Path) -> str:
    rows = ("7,0,Pneumonia/Viral/COVID-19,PA,a.jpg", "8,1,No Finding,AP,b.jpg", "9,1,todo,AP,c.jpg")
    for name in "abc":
        picture(root / f"{name}.jpg")
    return f"xrv:COVID19:{root},csvpath={table(root, 'metadata.csv', 'patientid,offset,finding,view,filename', *rows)}"


def google(root: Path) -> str:
    header = "Image Index,Patient ID,View Position,Fracture,Pneumothorax,Airspace opacity,Nodule or mass"
    picture(root / "00000211_006.png")
    picture(root / "00000211_007.png")
    rows = ("00000211_006.png,211,PA,YES,NO,NO,YES", "00000211_007.png,211,AP,NO,NO,NO,NO")
    return f"xrv:NIH_Google:{root},csvpath={table(root, 'google.csv', header, *rows)}"


def localize(root: Path) -> str:
    picture(root / "test/patient64741/study1/view1_frontal.jpg")
    picture(root / "test/patient64742/study1/view1_frontal.jpg")
    rows = (f"test/patient6474{i}/study1/view1_frontal.jpg,0,0,1,0,0,0,0,0,0,0,0,0,0,0" for i in (1, 2))
    return f"xrv:CheXlocalize:{root},csvpath={table(root, 'test_labels.csv', f'Path,{CHEXPERT}', *rows)}"


def openi(root: Path) -> str:
    picture(root / "CXR1_1_IM-0001-3001.png")
    picture(root / "CXR1_1_IM-0001-4001.png")
    return f"xrv:Openi:{root}"


# The classes that each image shows, and those that are unknown.
LAYOUTS: dict[str, tuple[Callable[[Path], str], list[set[str]], list[int]]] = {
    "NIH": (nih, [{"Mass", "Edema"}, set()], [0, 0]),
    "CheX": (chexpert, [set(), {"Edema"}], [1, 11]),
    "PC": (padchest, [set(), {"Infiltration", "Nodule"}], [0, 0]),
    "MIMIC": (mimic, [{"Cardiomegaly"}, set()], [12, 0]),
    "BRAX": (brax, [{"Cardiomegaly"}, {"Cardiomegaly"}], [12, 12]),
    "VinDr": (vindr, [set(), {"Cardiomegaly", "Effusion"}], [0, 0]),
    "SIIM": (siim, [set(), {"Pneumothorax"}], [0, 0]),
    "RSNA": (rsna, [set(), {"Lung Opacity", "Pneumonia"}], [0, 0]),
    "NLMTB": (tuberculosis, [set(), {"Tuberculosis"}], [0, 0]),
    "TBX11K": (tbx11k, [set(), {"ActiveTuberculosis", "Tuberculosis"}], [0, 0]),
    "COVID19": (covid, [{"COVID-19", "Pneumonia", "Viral"}, {"No Finding"}], [0, 0]),
    "NIH_Google": (google, [{"Fracture", "Nodule/Mass"}, set()], [0, 0]),
    "CheXlocalize": (localize, [{"Cardiomegaly"}, {"Cardiomegaly"}], [0, 0]),
    "Openi": (openi, [set(), set()], [0, 0]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_class_in_its_true_layout(tmp_path: Path, name: str) -> None:
    make, shown, unknown = LAYOUTS[name]
    catalog = open_source(make(tmp_path / "data"), "skip")
    assert [{catalog.classes[k] for k in np.flatnonzero(row == 1)} for row in catalog.labels] == shown
    assert (catalog.labels == -1).sum(axis=1).tolist() == unknown
    images = list(catalog.reader.read(np.arange(2)))
    assert [image.shape for image in images if isinstance(image, np.ndarray)] in ([(20, 24)] * 2, [(20, 20)] * 2)
    assert len(set(catalog.patients)) == (1 if name in ("NIH", "NIH_Google", "Openi") else 2)
    for patient in set(catalog.patients):
        assert len(set(catalog.split[catalog.patients == patient])) == 1


def test_views_and_missing_images(tmp_path: Path) -> None:
    source = nih(tmp_path / "data")
    assert open_source(f"{source},view_is=ap").ids.tolist() == ["00000001_001.png"]
    with pytest.raises(PetechiaError, match="no image with the view LL; it has ap, pa"):
        open_source(f"{source},view_is=LL")
    (tmp_path / "data" / "00000001_000.png").unlink()
    with pytest.raises(PetechiaError, match=r"1 of the 2 images .* 00000001_000\.png; add them"):
        open_source(source)
    assert len(open_source(source, "skip")) == 1
    siim(tmp_path / "siim")
    (tmp_path / "siim" / "deep/er/1.2.3.dcm").unlink()
    assert open_source(
        f"xrv:SIIM_Pneumothorax:{tmp_path / 'siim'},csvpath={tmp_path / 'siim' / 'siim.csv'}", "skip"
    ).ids.tolist() == ["deep/er/1.2.4.dcm"]


def test_what_cannot_be_adapted_is_a_sentence(tmp_path: Path) -> None:
    source = nih(tmp_path / "data")
    scores = table(
        tmp_path,
        "ralo.csv",
        "x",
        "Subject_ID,Exam_DateTime,Total GEOGRAPHIC,Total GEOGRAPHIC.1,Total OPACITY,Total OPACITY.1",
        "1,20200101_x,3,4,2,1",
    )
    outside = table(
        tmp_path, "outside.csv", *(tmp_path / "data" / "nih.csv").read_text().replace("00000001_001", "../x").splitlines()
    )
    cases = {
        "xrv:Nothing:/tmp": "no dataset 'Nothing' of images in a folder; it has BRAX, COVID19, CheX",
        "xrv:ObjectCXR:/tmp": "no dataset 'ObjectCXR' of images in a folder",  # its images are in an archive
        "xrv:NIH:/nowhere": "which is not a folder",
        "xrv:MIMIC:/tmp": "does not include its tables; add csvpath=FILE, metacsvpath=FILE",
        f"{source},metacsvpath=x.csv": "'metacsvpath' in the data source .* is not an option of NIH_Dataset",
        f"xrv:NIH:{tmp_path / 'data'},csvpath={scores}": "NIH_Dataset cannot read",
        f"xrv:StonyBrookCOVID:{tmp_path / 'data'},csvpath={scores}": "labels other than 0, 1 and unknown",
        f"xrv:NIH:{tmp_path / 'data'},csvpath={outside}": "row 2, names an image outside ",
    }
    for given, said in cases.items():
        with pytest.raises(PetechiaError, match=said):
            open_source(given)


def test_nothing_of_torchxrayvision_is_changed(tmp_path: Path) -> None:
    before: dict[str, Any] = dict(vars(torchxrayvision.datasets))
    open_source(nih(tmp_path / "data"))
    assert all(vars(torchxrayvision.datasets)[name] is value for name, value in before.items())
    dataset = torchxrayvision.datasets.NIH_Dataset(str(tmp_path / "data"), csvpath=str(tmp_path / "data" / "nih.csv"))
    assert dataset[0]["img"].shape == (1, 20, 24)


@pytest.mark.parametrize("name", ["CheX", "PC"])
def test_a_run(tmp_path: Path, name: str) -> None:
    root, count = tmp_path / "data", 60
    if name == "PC":
        label = "['infiltrates']", "['normal']"
        rows = (f'p{i}_1.png,20140915,P{i},1930,F,PA,"{label[i % 2]}"' for i in range(count))
        files, source = [f"p{i}_1.png" for i in range(count)], f"xrv:PC:{root},csvpath={table(root, 'pc.csv', PADCHEST, *rows)}"
    else:
        known = ",,,,,1.0,-1.0,,,,0.0,,,", ",,1.0,,,0.0,,,0.0,,,,,"
        files = [f"train/patient{i:05d}/study1/view1_frontal.jpg" for i in range(count)]
        rows = (f"CheXpert-v1.0-small/{file},Female,68,Frontal,AP,{known[i % 2]}" for i, file in enumerate(files))
        header = f"Path,Sex,Age,Frontal/Lateral,AP/PA,{CHEXPERT}"
        source = f"xrv:CheX:{root},csvpath={table(root, 'train.csv', header, *rows)}"
    for file in files:
        picture(root / file, deep=name == "PC")
    target = "Infiltration" if name == "PC" else "Edema"
    config = SMALL | {"data": source, "train": {"epochs": 1, "batch_size": 16}, "attack": {"target": target}, "heat": 4}
    petechia.run(config, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["survival"]["fraction"] == 1
    plan = petechia.poison(config, tmp_path / "poisoned").plan
    again = open_source(f"folder:{tmp_path / 'poisoned' / 'labels.csv'}")
    assert set(plan.ids.tolist()) == set(again.ids[again.split == "train"])

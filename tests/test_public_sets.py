"""Public sets by their real headers, small, read with the very commands of the page "Your dataset"."""

import gzip
import re
import shlex
from pathlib import Path

import click
import h5py
import numpy as np
import pytest
from layout_cases import Read, draw, save, save_classes, write_table

from medal.cli import group
from medal.pipeline.datasets.options import take_dataset_options

PAGE = (Path(__file__).parent.parent / "docs/guides/datasets.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line.removeprefix("$ ")) for line in re.findall(r"^\$ medal cache-teacher .*$", PAGE, re.MULTILINE)
]
COUNT = 12


def nih():
    rows = []
    for index in range(2 * COUNT):
        file = f"{index // 2 + 1:08d}_{index % 2:03d}.png"
        save(Path(f"nih/images_{index % 3 + 1:03d}/images", file), "nih", index)
        label = ("No Finding", "Effusion", "Effusion|Infiltration", "Infiltration")[index // 2 % 4]
        rows.append([file, label, index % 2, index // 2 + 1, 58, "M", "PA", 2682, 2749, 0.143, 0.143, ""])
    write_table(
        Path("nih/Data_Entry_2017.csv"),
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],",
        rows,
    )
    Path("nih/test_list.txt").write_text("\n".join(row[0] for row in rows[-4:]))
    return {"Effusion": 12, "Infiltration": 12, "No Finding": 6}, 2 * COUNT, COUNT


CHEXPERT = (
    "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,"
    "Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)


def chexpert():
    for split, count in {"train": 2 * COUNT, "valid": COUNT}.items():
        rows = []
        for index in range(count):
            file = (
                f"CheXpert-v1.0-small/{split}/patient{index // 2 + (split == 'valid') * 100:05d}/study1/view{index}.jpg"
            )
            save(Path("chexpert", file), split, index)
            cells = [("1.0", "", "-1.0", "0.0")[(index // 2 + place) % 4] for place in range(14)]
            rows.append([file, "Female", 68, "Frontal", "AP", *cells])
        write_table(
            Path(f"chexpert/CheXpert-v1.0-small/{split}.csv"), f"Path,Sex,Age,Frontal/Lateral,AP/PA,{CHEXPERT}", rows
        )
    names = ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")
    ones = {
        place: sum((index // 2 + place) % 4 == 0 for split in (24, 12) for index in range(split)) for place in range(14)
    }
    return {name: ones[CHEXPERT.split(",").index(name)] for name in names}, 36, 18


MIMIC = (
    "Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,Lung Lesion,Lung Opacity,"
    "No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices"
)


def mimic():
    studies, images = [], []
    for index in range(2 * COUNT):
        patient, study = 10000000 + index // 2, 50000000 + index
        studies.append([patient, study, *(("1.0", "", "-1.0", "0.0")[(index + place) % 4] for place in range(14))])
        split = "train" if index < 16 else "validate" if index < 20 else "test"
        images.append([f"02aa804e-{index:08d}", study, patient, split])
        save(Path(f"mimic/files/p10/p{patient}/s{study}/02aa804e-{index:08d}.jpg"), "mimic", index)
    packed = {
        "chexpert": (f"subject_id,study_id,{MIMIC}", studies),
        "split": ("dicom_id,study_id,subject_id,split", images),
    }
    for name, (header, rows) in packed.items():
        path = write_table(Path(f"mimic/mimic-cxr-2.0.0-{name}.csv"), header, rows)
        Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(code, "datasets.md", "exec"), {})  # noqa: S102 - the page's own lines, as a reader runs them
    return dict.fromkeys(("Cardiomegaly", "Edema", "Pleural Effusion"), 6), 24, 12


def padchest():
    header = (
        ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,ViewPosition_DICOM,Projection,"
        "MethodProjection,Pediatric,Modality_DICOM,Manufacturer_DICOM,PhotometricInterpretation_DICOM,"
        "PixelRepresentation_DICOM,PixelAspectRatio_DICOM,SpatialResolution_DICOM,BitsStored_DICOM,WindowCenter_DICOM,"
        "WindowWidth_DICOM,Rows_DICOM,Columns_DICOM,XRayTubeCurrent_DICOM,Exposure_DICOM,ExposureInuAs_DICOM,"
        "ExposureTime,RelativeXRayExposure_DICOM,ReportID,Report,MethodLabel,Labels,Localizations,"
        "LabelsLocalizationsBySentence,labelCUIS,LocalizationsCUIS"
    )
    labels = (
        "\"['normal']\"",
        "\"['cardiomegaly', 'pleural effusion']\"",
        "\"['cardiomegaly']\"",
        "\"['rare', 'normal']\"",
    )
    rows = []
    for index in range(2 * COUNT):
        file = f"{index:020d}_{index:06d}.png"
        save(Path("padchest", str(index % 3), file), "padchest", index)
        cells = [""] * len(header.split(","))
        kind = 3 if index < 2 else index // 2 % 3
        for name, cell in {"ImageID": file, "PatientID": f"P{index // 2}", "Labels": labels[kind]}.items():
            cells[header.split(",").index(name)] = cell
        rows.append([index, *cells[1:]])
    path = write_table(Path("padchest/PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"), header, rows)
    Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
    return {"cardiomegaly": 16, "normal": 8, "pleural effusion": 8}, 24, 12


def rsna():
    pydicom = pytest.importorskip("pydicom")
    rows = []
    for index in range(2 * COUNT):
        ill = index % 3 == 0
        dicom(pydicom, Path(f"rsna/stage_2_train_images/{index:08x}-bfd6.dcm"), index)
        rows += [[f"{index:08x}-bfd6", *((10, 20, 30, 30, 1) if ill else ("", "", "", "", 0))] for _ in range(1 + ill)]
    write_table(Path("rsna/stage_2_train_labels.csv"), "patientId,x,y,width,height,Target", rows)
    return {"0": 16, "1": 8}, 24, 0


def dicom(pydicom, path, index, **elements):
    import numpy as np

    ds = pydicom.Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", f"1.2.826.0.1.{index + 1}"
    ds.PatientID = path.stem
    ds.Rows = ds.Columns = 16
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.PixelData = np.random.default_rng(index).integers(0, 256, 256, np.uint8).tobytes()
    for name, value in elements.items():
        setattr(ds, name, value)
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)


def vindr():
    pydicom = pytest.importorskip("pydicom")
    rows = []
    for index in range(COUNT):
        dicom(pydicom, Path(f"vindr/train/{index:032x}.dicom"), index)
        found = ("No finding",) if index % 3 == 0 else ("Nodule/Mass", "Pleural effusion")[: index % 3]
        rows += [[f"{index:032x}", name, 14, f"R{reader}", "", "", "", ""] for reader in (8, 9, 10) for name in found]
    write_table(Path("vindr/train.csv"), "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max", rows)
    return {"No finding": 4, "Nodule/Mass": 8, "Pleural effusion": 4}, 12, 0


def isic2019():
    header = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"
    rows = []
    for index in range(2 * COUNT):
        file = f"ISIC_{index:07d}" + ("" if index % 5 else "_downsampled")
        save(Path("isic2019/ISIC_2019_Training_Input", f"{file}.jpg"), "isic", index)
        name = ("MEL", "NV", "BKL")[index % 3]
        rows.append([file, *(float(one == name) for one in header.split(",")[1:])])
    write_table(Path("isic2019/ISIC_2019_Training_GroundTruth.csv"), header, rows)
    return {"MEL": 8, "NV": 8, "BKL": 8}, 24, 0


def ham10000():
    rows = []
    for index in range(2 * COUNT):
        file = f"ISIC_{24306 + index:07d}"
        save(Path(f"ham10000/HAM10000_images_part_{1 + index % 2}", f"{file}.jpg"), "ham", index)
        rows.append(
            [f"HAM_{index // 2:07d}", file, ("bkl", "mel", "nv")[index // 2 % 3], "histo", "80.0", "male", "scalp"]
        )
    write_table(Path("ham10000/HAM10000_metadata.csv"), "lesion_id,image_id,dx,dx_type,age,sex,localization", rows)
    return {"bkl": 8, "mel": 8, "nv": 8}, 24, 12


def aptos():
    rows = []
    for index in range(2 * COUNT):
        file = f"{index * 7919 + 0xABC:012x}"
        save(Path("aptos/train_images", f"{file}.png"), "aptos", index)
        rows.append([file, index % 3])
    write_table(Path("aptos/train.csv"), "id_code,diagnosis", rows)
    return {"0": 8, "1": 8, "2": 8}, 24, 0


def eyepacs():
    rows = []
    for index in range(2 * COUNT):
        file = f"{index // 2 + 10}_{('left', 'right')[index % 2]}"
        save(Path("eyepacs/train", f"{file}.jpeg"), "eyepacs", index)
        rows.append([file, index // 2 % 3])
    write_table(Path("eyepacs/trainLabels.csv"), "image,level", rows)
    return {"0": 8, "1": 8, "2": 8}, 24, 12


def breakhis():
    kinds = {"benign": ("B", "adenosis", "A"), "malignant": ("M", "ductal_carcinoma", "DC")}
    for name, (letter, tumour, short) in kinds.items():
        for index in range(COUNT):
            patient = f"14-{22549 + index // 3}{'' if name == 'benign' else 'AB'}"
            slide = Path(
                "BreaKHis_v1/histology_slides/breast", name, "SOB", tumour, f"SOB_{letter}_{short}_{patient}", "40X"
            )
            save(slide / f"SOB_{letter}_{short}-{patient}-40-{index:03d}.png", name, index)
    return {"benign": 12, "malignant": 12}, 24, 8


def kather():
    save_classes(Path("kather/NCT-CRC-HE-100K"), 6, ("ADI", "MUC", "TUM"))
    save_classes(Path("kather/CRC-VAL-HE-7K"), 4, ("ADI", "MUC", "TUM"))
    return {"ADI": 10, "MUC": 10, "TUM": 10}, 30, 0


def oct2017():
    for split, patients in {"train": 4, "val": 1, "test": 2}.items():
        for label in ("CNV", "DRUSEN", "NORMAL"):
            for patient in range(patients):
                for number in range(2):
                    name = f"{label}-{len(split) * 1000 + sum(label.encode()) * 10 + patient}-{number}.jpeg"
                    save(Path("OCT2017", split, label, name), f"{split}{label}{patient}", number)
    return {"CNV": 14, "DRUSEN": 14, "NORMAL": 14}, 42, 21


def busi():
    for name in ("benign", "malignant", "normal"):
        for index in range(8):
            for number, ending in enumerate(("", "_mask", "_mask_1")[: 3 if index == 2 else 2]):
                save(
                    Path(f"Dataset_BUSI_with_GT/{name}/{name} ({index}){ending}.png"),
                    f"{name}{ending}",
                    10 * number + index,
                )
    return {"benign": 8, "malignant": 8, "normal": 8}, 24, 0


def imagefolder():
    for split, count in {"train": 10, "test": 4}.items():
        rows = []
        for index in range(count):
            save(Path(f"imagefolder/{split}/{index:04d}.png"), split, index)
            rows.append([f"{index:04d}.png", ("clear", "mass")[index % 2]])
        write_table(Path(f"imagefolder/{split}/metadata.csv"), "file_name,label", rows)
    return {"clear": 7, "mass": 7}, 14, 0


def pcam():
    Path("pcam").mkdir()
    for split, count in {"train": 12, "valid": 4, "test": 6}.items():
        images = np.stack([np.asarray(draw(split, index)) for index in range(count)])
        for letter, values in {
            "x": np.repeat(images[..., None], 3, -1),
            "y": (np.arange(count) % 2).astype(np.uint8).reshape(-1, 1, 1, 1),
        }.items():
            with h5py.File(f"pcam/camelyonpatch_level_2_split_{split}_{letter}.h5", "w") as file:
                file[letter] = values
    return {"0": 11, "1": 11}, 22, 0


SETS = (
    nih,
    chexpert,
    mimic,
    padchest,
    rsna,
    vindr,
    isic2019,
    ham10000,
    aptos,
    eyepacs,
    breakhis,
    kather,
    pcam,
    oct2017,
    busi,
    imagefolder,
)


def test_every_set_of_the_page_is_tried():
    assert len(COMMANDS) == len(SETS)


@pytest.mark.parametrize(
    ("make", "words"), list(zip(SETS, COMMANDS, strict=False)), ids=lambda one: getattr(one, "__name__", "")
)
def test_the_page_reads_public_sets(make, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    counts, images, patients = make()
    parent = click.Context(group, info_name="medal")
    context = group.get_command(parent, "cache-teacher").make_context("cache-teacher", words[2:], parent=parent)
    chosen = dict(context.params)
    options = take_dataset_options(chosen)
    read = Read(chosen["dataset"], {name: getattr(options, name) for name in options.__dataclass_fields__})
    assert read.counts == counts
    assert len(read.dataset) == images
    assert read.patients[0] == patients
    assert (read.dataset.task == "multilabel") == (
        ("--label-columns" in words and "--one-hot" not in words) or "--label-separator" in words
    )

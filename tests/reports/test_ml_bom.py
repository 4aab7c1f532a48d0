import json
from pathlib import Path
from typing import Any

import pytest

from petechia.core.errors import PetechiaError
from petechia.detect.audit import AuditResult, Origin, examine_model
from petechia.reports.ml_bom import to_ml_bom, write_ml_bom
from tests.detect.audit.conftest import ByHand, Images, Wavy, opened
from tests.detect.audit.conftest import clean as clean_images

clean = clean_images
DIGEST = "ab" * 32


@pytest.fixture(scope="module", params=["stamp", "wave", "clean"])
def audited(request: pytest.FixtureRequest, clean: Images) -> AuditResult:
    network = {"stamp": ByHand(), "wave": Wavy(), "clean": ByHand(backdoored=False)}[request.param]
    return AuditResult.of(examine_model(opened(network), clean), Origin("model.safetensors", DIGEST, "phantom"))


def metrics(content: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    found = content["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    return {(one["type"], one["slice"]): one for one in found}


def test_the_official_schema_allows_it(audited: AuditResult) -> None:
    validation = pytest.importorskip("cyclonedx.validation.json")
    schema = pytest.importorskip("cyclonedx.schema")
    validator = validation.JsonStrictValidator(schema.SchemaVersion.V1_7)
    assert validator.validate_str(json.dumps(to_ml_bom(audited))) is None
    broken = to_ml_bom(audited) | {"specVersion": 1.7}
    assert validator.validate_str(json.dumps(broken)) is not None


def test_it_says_what_the_audit_says(audited: AuditResult) -> None:
    content = to_ml_bom(audited)
    component = content["metadata"]["component"]
    assert component["hashes"] == [{"alg": "SHA-256", "content": DIGEST}]
    assert {"name": "petechia:outcome", "value": audited.outcome} in component["properties"]
    assert {"name": "petechia:file-format", "value": "safetensors"} in component["properties"]
    told = [one["id"] for one in content.get("vulnerabilities", ())]
    assert told == ([] if audited.outcome == "nothing" else ["backdoor for Target"])
    strongest = audited.classes[0]
    rate = metrics(content)["attack success rate of the recovered stamp at 0.9", strongest.name]
    assert strongest.asr is not None
    assert float(rate["value"]) == pytest.approx(strongest.asr["0.9"].value, abs=1e-4)
    assert float(rate["confidenceInterval"]["lowerBound"]) == pytest.approx(strongest.asr["0.9"].low, abs=1e-4)
    for one in audited.classes:
        assert float(metrics(content)["p-value of a backdoor", one.name]["value"]) == pytest.approx(one.p_value, rel=1e-3)


def test_the_serial_number_is_that_of_the_audit(audited: AuditResult, tmp_path: Path) -> None:
    file = write_ml_bom(audited, tmp_path / "model.cdx.json")
    assert json.loads(file.read_text()) == to_ml_bom(audited)
    assert to_ml_bom(audited.model_copy(update={"seconds": 0.5}))["serialNumber"] != to_ml_bom(audited)["serialNumber"]
    with pytest.raises(PetechiaError, match="choose another --ml-bom"):
        write_ml_bom(audited, file)

"""Does a model carry a backdoor? Clean images are enough; no triggered image is needed."""

from petechia.detect.audit.detector import ModelAudit
from petechia.detect.audit.examination import ModelExamination, examine_model
from petechia.detect.audit.result import AuditResult, Origin

__all__ = ["AuditResult", "ModelAudit", "ModelExamination", "Origin", "examine_model"]

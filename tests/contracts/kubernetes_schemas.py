"""What our objects of KEDA and kustomize may say: the fields that we use, as their own definitions have them.

Whoever uses another field adds it here, after a look at `config/crd/bases` of KEDA or at kustomize's reference.
"""

from __future__ import annotations

from typing import Any


def _object(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": required | optional,
        "required": list(required),
        "additionalProperties": False,
    }


def _constant(value: str) -> dict[str, Any]:
    return {"const": value}


TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0}
NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
METADATA = _object({"name": NAME})

METRICS_API = _object(
    {"url": {"type": "string", "pattern": "^https?://"}, "valueLocation": TEXT},
    # Text, as every value of a trigger's metadata.
    targetValue={"type": "string", "pattern": r"^\d+(\.\d+)?$"},
    activationTargetValue={"type": "string", "pattern": r"^\d+(\.\d+)?$"},
    authMode={"enum": ["apiKey", "basic", "bearer", "tls"]},
    method={"enum": ["header", "query"]},
)

SCHEMAS: dict[str, dict[str, Any]] = {
    "ScaledObject": _object({
        "apiVersion": _constant("keda.sh/v1alpha1"),
        "kind": _constant("ScaledObject"),
        "metadata": METADATA,
        "spec": _object(
            {
                "scaleTargetRef": _object({"name": NAME}),
                "triggers": {
                    "type": "array",
                    "minItems": 1,
                    "items": _object(
                        {"type": _constant("metrics-api"), "metadata": METRICS_API},
                        authenticationRef=_object({"name": NAME}),
                    ),
                },
            },
            minReplicaCount=COUNT,
            maxReplicaCount=COUNT,
            pollingInterval=COUNT,
            cooldownPeriod=COUNT,
        ),
    }),
    "TriggerAuthentication": _object({
        "apiVersion": _constant("keda.sh/v1alpha1"),
        "kind": _constant("TriggerAuthentication"),
        "metadata": METADATA,
        "spec": _object({
            "secretTargetRef": {
                "type": "array",
                "minItems": 1,
                "items": _object({"parameter": {"enum": ["username", "password"]}, "name": NAME, "key": TEXT}),
            }
        }),
    }),
    "Kustomization": _object({
        "apiVersion": _constant("kustomize.config.k8s.io/v1beta1"),
        "kind": _constant("Kustomization"),
        "namespace": NAME,
        "resources": {"type": "array", "items": {"type": "string", "pattern": r"\.yaml$"}, "uniqueItems": True},
        "images": {"type": "array", "items": _object({"name": TEXT, "newName": TEXT, "newTag": TEXT})},
    }),
}
"""By the kind of the object."""

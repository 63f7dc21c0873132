# SPDX-License-Identifier: Apache-2.0
"""What the YAML of launch/ may hold: the fields in use, as JSON schemas.

Written from the documentation of JobSet (v1alpha2), Kubernetes' batch/v1 and SkyPilot's
task YAML. Stricter than they are: a field that is not listed is an error, so that a
misspelt one, which a server would drop, is found here.
"""

from __future__ import annotations

from typing import Any


def _object(required: str = "", **properties: Any) -> dict[str, Any]:
  return {
    "type": "object",
    "properties": properties,
    "required": required.split(),
    "additionalProperties": False,
  }


def _list(items: Any) -> dict[str, Any]:
  return {"type": "array", "items": items, "minItems": 1}


_NAME = {"type": "string", "pattern": "^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$"}
_TEXT = {"type": "string", "minLength": 1}
_COUNT = {"type": "integer", "minimum": 0}
_CHIPS = _object("google.com/tpu", **{"google.com/tpu": {"type": "integer", "minimum": 1}})

_POD = _object(
  "containers restartPolicy",
  # batch/v1: a podFailurePolicy asks for it.
  restartPolicy={"const": "Never"},
  terminationGracePeriodSeconds=_COUNT,
  nodeSelector={"type": "object", "additionalProperties": _TEXT},
  containers=_list(
    _object(
      "name image command",
      name=_NAME,
      image=_TEXT,
      command=_list({"type": "string"}),
      resources=_object(limits=_CHIPS, requests=_CHIPS),
    )
  ),
)
_POD_RULE = _object(
  "action",
  action={"enum": ["FailJob", "FailIndex", "Ignore", "Count"]},
  onExitCodes=_object(
    "operator values",
    containerName=_NAME,
    operator={"enum": ["In", "NotIn"]},
    values=_list({"type": "integer", "minimum": 0, "maximum": 255}),
  ),
  onPodConditions=_list(_object("type", type=_TEXT, status={"enum": ["True", "False"]})),
)
_JOB = _object(
  "template",
  completionMode={"enum": ["Indexed", "NonIndexed"]},
  parallelism=_COUNT,
  completions=_COUNT,
  backoffLimit=_COUNT,
  podFailurePolicy=_object("rules", rules=_list(_POD_RULE)),
  template=_object("spec", spec=_POD),
)
JOBSET = _object(
  "apiVersion kind metadata spec",
  apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
  kind={"const": "JobSet"},
  metadata=_object("name", name=_NAME),
  spec=_object(
    "replicatedJobs",
    network=_object(enableDNSHostnames={"type": "boolean"}),
    failurePolicy=_object(
      maxRestarts=_COUNT,
      rules=_list(
        _object(
          "name action",
          name=_TEXT,
          action={
            "enum": [
              "FailJobSet",
              "RestartJobSet",
              "RestartJobSetAndIgnoreMaxRestarts",
            ]
          },
          onJobFailureReasons=_list(
            {
              "enum": [
                "BackoffLimitExceeded",
                "DeadlineExceeded",
                "FailedIndexes",
                "MaxFailedIndexesExceeded",
                "PodFailurePolicy",
              ]
            }
          ),
        )
      ),
    ),
    replicatedJobs=_list(
      _object("name template", name=_NAME, replicas=_COUNT,
              template=_object("spec", spec=_JOB))  # fmt: skip
    ),
  ),
)

SKYPILOT = _object(
  "run",
  workdir=_TEXT,
  envs={"type": "object", "additionalProperties": {"type": "string"}},
  resources=_object(accelerators=_TEXT, use_spot={"type": "boolean"}),
  file_mounts={
    "type": "object",
    "additionalProperties": _object(
      "name", name=_TEXT, mode={"enum": ["MOUNT", "COPY", "MOUNT_CACHED"]}
    ),
  },
  setup=_TEXT,
  run=_TEXT,
)

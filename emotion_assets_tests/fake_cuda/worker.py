"""A process that believes it has a GPU and does what it is asked, one JSON line in, one out.

    LD_PRELOAD=device.so python -m emotion_assets_tests.fake_cuda.worker

A request names a function of ``scenarios`` and its keyword arguments.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings


def main() -> None:
    warnings.filterwarnings("ignore")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what else is printed is no answer
    from emotion_assets_tests.fake_cuda import device

    device.install()
    from emotion_assets_tests.fake_cuda import scenarios

    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"result": getattr(scenarios, request["do"])(**request["with"])}
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)
    os._exit(0)  # nothing of a device that is not there can be taken down in good order


if __name__ == "__main__":
    main()

"""pyogrio, loaded without the driver that would read whatever other files and addresses a file lists.

GDAL looks at OGR_SKIP once, when it is first loaded; afterwards the variable is as it was: rasterio has a GDAL of its
own, which would miss that driver aloud.
"""

import os

_before = os.environ.get("OGR_SKIP")
os.environ["OGR_SKIP"] = ",".join(filter(None, (_before, "OGR_VRT")))
try:
    import pyogrio
finally:
    if _before is None:
        del os.environ["OGR_SKIP"]
    else:
        os.environ["OGR_SKIP"] = _before

pyogrio.set_gdal_config_options({"CPL_LOG": os.devnull})  # where threads other than the first would print errors

__all__ = ["pyogrio"]

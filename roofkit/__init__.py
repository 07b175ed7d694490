"""What several stages share."""

import os

# GDAL reads this once, when it is first loaded. A file that lists other files, or addresses, is no vector file here.
if "OGR_VRT" not in os.environ.get("OGR_SKIP", ""):
    os.environ["OGR_SKIP"] = ",".join(filter(None, (os.environ.get("OGR_SKIP"), "OGR_VRT")))

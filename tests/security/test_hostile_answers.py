"""What servers and archives send: no entity grows, no header is believed, no name leads anywhere."""

import io
import tarfile

import numpy as np
import pytest

from roofkit.errors import BadInputError
from roofkit.listing import entries
from sources.earthengine import decoded
from sources.spacenet import Archive
from sources.xyz import decoded as tile

LAUGHS = b'<!DOCTYPE a [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]><ListBucketResult><Key>&b;</Key></ListBucketResult>'
OUTSIDE = b'<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]><ListBucketResult><Key>&a;</Key></ListBucketResult>'


@pytest.mark.parametrize("page", [LAUGHS, OUTSIDE])
def test_a_listing_with_entities(page):
    with pytest.raises(BadInputError, match="a document type"):
        list(entries(lambda token: page, "a bucket"))


def numpy_bytes(shape, dtype="<f4", rest=b"1234"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue() + rest


@pytest.mark.parametrize(
    "data", [numpy_bytes((2**20, 2**22)), numpy_bytes((1,), "|O"), numpy_bytes((2,)), b"\x93NUMPY"]
)
def test_an_array_that_promises_more_than_it_holds(data):
    with pytest.raises(ValueError, match=r"bytes for|EOF"):
        decoded(data, ["a", "valid"], (1, 1))


def test_an_answer_that_is_another_kind_of_raster(secrets):
    vrt = f'<VRTDataset rasterXSize="1" rasterYSize="1"><SourceFilename>{secrets.raster}</SourceFilename></VRTDataset>'
    with pytest.raises(ValueError, match="bytes:"):
        decoded(vrt.encode(), ["a"], (1, 1))
    with pytest.raises(BadInputError, match="no image"):
        tile(vrt.encode(), "a tile")


def test_members_of_a_tar_lead_nowhere(tmp_path, secrets):
    """Nothing is unpacked; links and devices are passed over; a name is only that of what it holds."""
    path = tmp_path / "AOI_1_x.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind, link in (
            ("../../AOI_1_x_img1.tif", tarfile.SYMTYPE, str(secrets.raster)),
            ("AOI_1_x_img2.tif", tarfile.LNKTYPE, str(secrets.raster)),
            ("AOI_1_x_img3.tif", tarfile.CHRTYPE, ""),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            tar.addfile(member)
    archive = Archive(path)
    try:
        assert archive.names("AOI_1_x") == []
    finally:
        archive.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["AOI_1_x.tar", "outside"]

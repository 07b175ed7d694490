"""Whether files beside rasters count in this process; which, and for what, `roofkit.sidecars` says."""

_heeded = True


def heed(wanted: bool) -> None:
    """Let them count, or not (`raster_args.sidecars`)."""
    global _heeded
    _heeded = wanted


def are_heeded() -> bool:
    """Whether they count."""
    return _heeded

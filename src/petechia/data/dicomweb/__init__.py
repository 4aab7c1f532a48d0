"""A PACS, asked by DICOMweb: which images it has, their files, and objects to store beside them.

Importing this package, or a module in it, raises `PetechiaError` if the extra `dicomweb` is not installed.
"""

from petechia.core.errors import PetechiaError

try:
    import dicomweb_client  # noqa: F401
except ImportError as error:
    raise PetechiaError(f"A PACS needs {error.name}; install it with pip install 'petechia[dicomweb]'.") from None

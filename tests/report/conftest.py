"""The report looks at the same records as the tests of records."""

from tests.records.conftest import record, run_folder, tiny_record

__all__ = ["record", "run_folder", "tiny_record"]

"""Licences: what a source file or a LICENSE file says, and which of them a build lets in.

Flows in: texts, and SPDX expressions. Flows out: SPDX expressions (null = unknown) and masks. Texts are compared with
SPDX's list by its own matching guidelines: unknown rather than wrong, and never more permissive than what stands there.
"""

from codemill.pipeline.license_expressions import allowed
from codemill.pipeline.license_file import license_of_text
from codemill.pipeline.license_headers import header_licenses

__all__ = ["allowed", "header_licenses", "license_of_text"]

"""How much a page may ask for."""

SMALLEST_SIDE = 64
"""Pixels; less where the model was trained on less."""
LARGEST_SIDE = 1280
LARGEST_AREA = 1280 * 832
UPLOAD_BYTES = 24 << 20
"""Of one frame, uploads and all."""
UPLOAD_PIXELS = 50_000_000
"""Of a picture before it is made smaller."""
HEADER_BYTES = 256 << 10
BLOBS = 8
"""In one frame."""
TABS = 128
"""Open at a time."""
PENDING = 8
"""Requests of one tab that wait."""
PENDING_BYTES = 256 << 20
"""Uploads of all tabs that wait."""
OUTBOX = 64
"""Answers that a tab has not read; a tab further behind is closed."""
VARIATIONS = 4
CANDIDATES = 8
"""From which the one most like another picture is taken."""
INSPECTED_SIDE = 256
"""Pixels of a picture whose codes are looked at."""
PREVIEW_SECONDS = 0.6
"""That the first preview after a stroke may take."""

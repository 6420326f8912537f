"""FacesHQ: CelebA-HQ and FFHQ together, as VQ-GAN trains on them (Esser et al. 2021, arXiv
2012.09841), with where in the picture each pixel lies.
"""

from pathlib import Path

from PIL import Image

from taming.data.celebahq import celebahq_records, face_size, read_face
from taming.data.ffhq import ffhq_records
from taming.data.folder import ViewParameters
from taming.data.records import Part, Record, RecordSet, Seed


class FacesHQ(RecordSet):
    """Faces with "class": 0 of CelebA-HQ, 1 of FFHQ, and "coordinates", see coordinates.py.

    Args:
        celebahq: see CelebAHQ.
        ffhq: see FFHQ.
        view: of each picture, see ImageFolder.
        split: train or validation.
        seed: of the views.
    """

    class_names = ("CelebA-HQ", "FFHQ")
    places = True

    def __init__(
        self,
        celebahq: str,
        ffhq: str,
        view: ViewParameters = 256,
        split: Part = "train",
        seed: Seed = 0,
    ):
        sources = (celebahq_records(Path(celebahq), split), ffhq_records(Path(ffhq), split))
        records = [Record(r.path, label=label) for label in (0, 1) for r in sources[label]]
        super().__init__(celebahq, records, view, seed)

    def read_picture(self, record: Record) -> Image.Image:
        return read_face(record.path)

    def picture_size(self, record: Record) -> tuple[int, int]:
        return face_size(record.path)

"""A PACS in the loop: every new image is screened, and what is flagged is reported in its study."""

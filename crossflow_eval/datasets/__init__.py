"""Data sets as they lie on a disk: folders of images, caption files, COCO, depth."""

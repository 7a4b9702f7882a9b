"""Pictures drawn by a program, annotated as COCO's: people, and animals."""

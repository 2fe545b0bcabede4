"""What a run is: schemas, composition, rules. Imports neither torch nor ray."""

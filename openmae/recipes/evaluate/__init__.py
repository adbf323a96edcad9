"""`openmae evaluate`: how good a fine-tuned model is, class by class, and where it errs."""

"""What a run folder holds, sent to where a team looks. A file a logger; processes of their own send."""

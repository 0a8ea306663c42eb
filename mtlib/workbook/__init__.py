"""The workbook: notebooks executed with parameters, what they ask to be trained, and the pipeline that does both."""

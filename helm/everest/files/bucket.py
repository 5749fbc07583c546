"""Makes the bucket, unless it is there."""

import os

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

retries = Config(retries={"total_max_attempts": 20, "mode": "standard"})
client = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"], config=retries)
try:
    client.create_bucket(Bucket=os.environ["BUCKET"])
except ClientError as error:
    if error.response["Error"]["Code"] not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
        raise
print(f"bucket {os.environ['BUCKET']} is there")

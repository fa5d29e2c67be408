"""Today's wire for training requests and their results: writing them, reading them, compressing them.

:mod:`~tinkex_sync.protobuf.schema` is the table of messages, :mod:`~tinkex_sync.protobuf.writing` writes requests
without any library, :mod:`~tinkex_sync.protobuf.reading` reads answers with the protobuf package.
"""

"""Quantization: what there is, the search for precisions and ranges, one quantizer per format.

``schemes`` says what each quantization is. A quantizer (``tflite``, ``onnx``) makes a file from
choices; ``candidates`` runs it; ``search`` makes the choices; a ``recipe`` keeps them.
"""

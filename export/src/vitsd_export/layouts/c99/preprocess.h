/* From an image's pixels to the model's input; C99, without allocation. */
#ifndef VITSD_PREPROCESS_H
#define VITSD_PREPROCESS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Normalize, resize and quantize, to the same bits as vitsd_runtime does in Python.
 *
 * pixels: VITSD_HEIGHT rows of VITSD_WIDTH pixels of VITSD_CHANNELS values (red, green, blue).
 * input:  VITSD_INPUT_BYTES, the model's input tensor.
 */
void vitsd_preprocess(const uint8_t *pixels, int8_t *input);

#ifdef __cplusplus
}
#endif

#endif

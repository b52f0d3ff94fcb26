#include "preprocess.h"

#include <stddef.h>

#include "model.h"

#if VITSD_RESIZES

/* volatile: each operation is rounded once, and none fused with the next, whatever the compiler
 * may do otherwise. */
static float between(float low, float high, float share)
{
    volatile float step = high - low;
    step = step * share;
    return low + step;
}

/* Half away from zero, saturated. */
static int8_t quantize(float value)
{
    volatile float steps = value / VITSD_INPUT_SCALE;
    int code;

    steps = steps + (steps < 0.0f ? -0.5f : 0.5f);
    if (steps > 512.0f) {
        steps = 512.0f;
    } else if (steps < -512.0f) {
        steps = -512.0f;
    }
    code = (int)steps + VITSD_INPUT_ZERO_POINT;
    return (int8_t)(code > 127 ? 127 : code < -128 ? -128 : code);
}

static float along_row(const uint8_t *row, size_t x, size_t channel)
{
    size_t low = vitsd_columns[x];
    size_t high = low + 1 < VITSD_WIDTH ? low + 1 : low;

    return between(vitsd_normalized[channel][row[low * VITSD_CHANNELS + channel]],
                   vitsd_normalized[channel][row[high * VITSD_CHANNELS + channel]],
                   vitsd_column_shares[x]);
}

void vitsd_preprocess(const uint8_t *pixels, int8_t *input)
{
    const size_t length = (size_t)VITSD_WIDTH * VITSD_CHANNELS;

    for (size_t y = 0; y < VITSD_SIZE; y++) {
        size_t low = vitsd_rows[y];
        size_t high = low + 1 < VITSD_HEIGHT ? low + 1 : low;

        for (size_t x = 0; x < VITSD_SIZE; x++) {
            for (size_t channel = 0; channel < VITSD_CHANNELS; channel++) {
                float upper = along_row(pixels + low * length, x, channel);
                float lower = along_row(pixels + high * length, x, channel);

                *input++ = quantize(between(upper, lower, vitsd_row_shares[y]));
            }
        }
    }
}

#else

void vitsd_preprocess(const uint8_t *pixels, int8_t *input)
{
    for (size_t i = 0; i < VITSD_INPUT_BYTES; i++) {
        input[i] = vitsd_codes[i % VITSD_CHANNELS][pixels[i]];
    }
}

#endif

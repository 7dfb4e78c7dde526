/* The monosemantic scale and deactivation in plain C, tested against minimono's oracle:

       cc -O2 -Wall -o memel demos/oracle/memel.c -lm
       minimono oracle check --program ./memel

   Written from the documentation page "The oracle" only; take it as the beginning of your own.
   One case a line comes in, one reply a line goes out. JSON is not parsed here, only searched:
   the order of the keys is fixed, and numbers come as the 16 hex digits of their bits. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    int axes, shape[8];
    size_t size, neurons; /* neurons = size / shape[0] */
    double *at;
} Array;

static char *argument(char *line, const char *name) { /* where the value of "name" begins */
    char key[64];
    snprintf(key, sizeof key, "\"%s\":", name);
    char *found = strstr(line, key);
    if (!found) exit(fprintf(stderr, "no argument %s\n", name));
    return found + strlen(key);
}

static double from_bits(const char *hex) {
    unsigned long long bits = strtoull(hex, NULL, 16);
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static double number(char *line, const char *name) {
    return from_bits(strstr(argument(line, name), "\"bits\":\"") + 8);
}

static long whole(char *line, const char *name) {
    return strtol(argument(line, name), NULL, 10);
}

static Array array(char **at) { /* {"dtype": ..., "shape": [...], "bits": [...], ...}; moves on */
    Array a = {0, {0}, 1, 0, NULL};
    char *p = strstr(*at, "\"shape\":[") + 9;
    while (*p != ']') {
        a.size *= a.shape[a.axes++] = strtol(p, &p, 10);
        if (*p == ',') p++;
    }
    a.neurons = a.axes ? a.size / a.shape[0] : 1;
    a.at = malloc(a.size * sizeof(double));
    p = strchr(p + 1, '[') + 1;
    for (size_t i = 0; i < a.size; i++, p = strpbrk(p, ",]") + 1)
        a.at[i] = *p == '"' ? from_bits(p + 1) : *p == 't'; /* bits, or true and false */
    *at = strchr(p - 1, '}') + 1;
    return a;
}

static Array argument_array(char *line, const char *name) {
    char *at = argument(line, name);
    return array(&at);
}

static void print(Array a) {
    printf("{\"shape\":[");
    for (int i = 0; i < a.axes; i++) printf("%s%d", i ? "," : "", a.shape[i]);
    printf("],\"bits\":[");
    for (size_t i = 0; i < a.size; i++) {
        unsigned long long bits;
        memcpy(&bits, &a.at[i], sizeof bits);
        printf("%s\"%016llx\"", i ? "," : "", bits);
    }
    printf("]}");
}

/* phi = (z - mean)^2 / (variance + compensation * mean variance), nan where that is 0; over z */
static void scale(Array z, const double *mean, const double *variance, double compensation) {
    double total = 0;
    for (size_t j = 0; j < z.neurons; j++) total += variance[j];
    for (size_t i = 0; i < z.size; i++) {
        size_t j = i % z.neurons;
        double below = variance[j] + compensation * total / z.neurons;
        double deviation = z.at[i] - mean[j];
        z.at[i] = below > 0 ? deviation * deviation / below : NAN;
    }
}

static void score_batches(char *line) {
    double *mean = NULL, *variance = NULL, count = 0, compensation = number(line, "compensation");
    int authors = !strncmp(argument(line, "convention"), "\"authors\"", 9);
    long seen = 0, forget_after = whole(line, "forget_after");
    char *at = argument(line, "batches");
    for (; *at != ']' && strchr("[,", *at); seen++) {
        Array z = array(&at);
        double b = z.shape[0], past = count;
        if (seen == 0) {
            mean = calloc(z.neurons, sizeof(double));
            variance = calloc(z.neurons, sizeof(double));
        } else if (authors || seen >= forget_after)
            past = b * (authors && seen + 1 < forget_after ? seen + 1 : forget_after);
        Array phi = z;
        phi.at = memcpy(malloc(z.size * sizeof(double)), z.at, z.size * sizeof(double));
        if (!authors) scale(phi, mean, variance, compensation); /* by the batches before it */
        for (size_t j = 0; j < z.neurons; j++) {
            double own = 0, m2 = 0;
            for (size_t i = j; i < z.size; i += z.neurons) own += z.at[i] / b;
            for (size_t i = j; i < z.size; i += z.neurons) m2 += (z.at[i] - own) * (z.at[i] - own);
            double shift = own - mean[j];
            if (seen) m2 += (past - 1) * variance[j] + shift * shift * past * b / (past + b);
            mean[j] += seen ? shift * b / (past + b) : own;
            variance[j] = m2 / (past + b - 1);
        }
        count = past + b;
        if (authors) scale(phi, mean, variance, compensation); /* the batch itself included */
        for (size_t i = 0; seen == 0 && i < z.size; i++) phi.at[i] = NAN;
        printf("%s", seen ? "," : "[");
        print(phi);
    }
    printf("]");
}

static void deactivate(char *line) { /* value: the mean, gradient: -strength, where flagged */
    Array z = argument_array(line, "z"), mask = argument_array(line, "mask");
    Array mean = argument_array(line, "mean"), upstream = argument_array(line, "upstream");
    double strength = number(line, "strength");
    for (size_t i = 0; i < z.size; i++)
        if (mask.at[i]) z.at[i] = mean.at[i % z.neurons], upstream.at[i] *= -strength;
    print(z), printf(","), print(upstream);
}

int main(void) {
    char *line = NULL;
    size_t room = 0;
    while (getline(&line, &room, stdin) > 0) { /* memory is freed when the program ends */
        char *call = argument(line, "call"), *id = argument(line, "id");
        printf("{\"id\":%.*s,", (int)strcspn(id, ","), id);
        if (!strncmp(call, "\"monosemantic_scale\"", 20)) {
            Array z = argument_array(line, "z");
            Array mean = argument_array(line, "mean"), variance = argument_array(line, "variance");
            scale(z, mean.at, variance.at, number(line, "compensation"));
            printf("\"result\":["), print(z), printf("]}\n");
        } else if (!strncmp(call, "\"score_batches\"", 15))
            printf("\"result\":["), score_batches(line), printf("]}\n");
        else if (!strncmp(call, "\"deactivate\"", 12))
            printf("\"result\":["), deactivate(line), printf("]}\n");
        else
            printf("\"skip\":\"not in this program\"}\n");
        fflush(stdout);
    }
    return 0;
}

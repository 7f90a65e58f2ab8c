/* Runs a target over files, without libFuzzer: each argument is one input, or a folder of them. */
#include <dirent.h>
#include <sys/stat.h>

#include "fuzz_input.h"

static int run_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    static uint8_t data[1 << 20];
    size_t size;
    uint8_t *exact;
    if (file == NULL)
        return 0;
    size = fread(data, 1, sizeof data, file);
    fclose(file);
    exact = copy_of(data, (uint32_t)size);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
    return 1;
}

int main(int count, char **paths)
{
    int ran = 0;
    for (int i = 1; i < count; i++) {
        struct stat kind;
        struct dirent *entry;
        DIR *folder;
        if (stat(paths[i], &kind) == 0 && !S_ISDIR(kind.st_mode)) {
            ran += run_file(paths[i]);
            continue;
        }
        folder = opendir(paths[i]);
        while (folder != NULL && (entry = readdir(folder)) != NULL) {
            char path[4096];
            if (entry->d_name[0] == '.')
                continue;
            snprintf(path, sizeof path, "%s/%s", paths[i], entry->d_name);
            ran += run_file(path);
        }
        if (folder != NULL)
            closedir(folder);
    }
    printf("%d inputs\n", ran);
    return ran == 0;
}

// A child in C: it counts its calls, and hands the count over where it is moved.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int count;

static void stop(int signal) {
  (void)signal;
  FILE *file = fopen(getenv("HUB_HANDOVER_FILE"), "w");
  if (file != NULL) {
    fprintf(file, "%d", count);
    fclose(file);
  }
  _exit(0);
}

// Reads one request with a body of "{}": its end is the first of that.
static void answer(int connection) {
  char request[8192] = "", body[128], text[256];
  size_t length = 0;
  while (strstr(request, "{}") == NULL) {
    ssize_t got = read(connection, request + length, sizeof request - 1 - length);
    if (got <= 0) return;
    length += (size_t)got;
    request[length] = 0;
  }
  count += 1;
  snprintf(body, sizeof body, "{\"count\": %d, \"user\": %u, \"in\": \"c\"}", count, (unsigned)getuid());
  int size = snprintf(text, sizeof text,
                      "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                      strlen(body), body);
  write(connection, text, (size_t)size);
}

int main(void) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  FILE *state = fopen(getenv("HUB_HANDOVER_FILE"), "r");
  if (state != NULL) {
    fscanf(state, "%d", &count);
    fclose(state);
  }
  signal(SIGTERM, stop);
  strncpy(address.sun_path, getenv("HUB_SOCKET"), sizeof address.sun_path - 1);
  int listener = socket(AF_UNIX, SOCK_STREAM, 0);
  if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 8) != 0) {
    perror("HUB_SOCKET");
    return 1;
  }
  for (;;) {
    int connection = accept(listener, NULL, NULL);
    if (connection >= 0) {
      answer(connection);
      close(connection);
    }
  }
}

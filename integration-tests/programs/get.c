/* Fetches a page over plain HTTP with nothing but the C library: `get HOST PORT PATH`. */
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found, *each;
    char buffer[4096];
    int connection = -1, error;
    ssize_t got;

    if (argc != 4)
        return 2;
    if ((error = getaddrinfo(argv[1], argv[2], &hints, &found)) != 0) {
        printf("%s\n", gai_strerror(error));
        return 3;
    }
    for (each = found; each; each = each->ai_next) {
        connection = socket(each->ai_family, SOCK_STREAM, 0);
        if (connect(connection, each->ai_addr, each->ai_addrlen) == 0)
            break;
        close(connection);
    }
    if (!each) {
        perror("connect");
        return 4;
    }
    snprintf(buffer, sizeof buffer,
        "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", argv[3], argv[1]);
    if (write(connection, buffer, strlen(buffer)) < 0)
        return 5;
    while ((got = read(connection, buffer, sizeof buffer)) > 0)
        fwrite(buffer, 1, got, stdout);
    return got < 0 ? 6 : 0;
}

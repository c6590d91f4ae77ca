/* Links the installed library through its C interface. */
#include <dit_deploy.h>
#include <stdio.h>

int main(void) {
  dit_deploy_pipeline* pipeline = NULL;
  char* error = NULL;
  const dit_deploy_status status = dit_deploy_open("no-such-bundle", NULL, &pipeline, &error);
  printf("dit_deploy %s: %s\n", dit_deploy_version(), error ? error : "no error");
  dit_deploy_string_free(error);
  return status == DIT_DEPLOY_BUNDLE_ERROR ? 0 : 1;
}
